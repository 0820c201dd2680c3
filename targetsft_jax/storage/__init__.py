"""Files and folders that are written atomically; imports nothing else of ours."""
