"""Configuration: one typed tree from YAML and dotted overrides, checked before use.

Every key is declared once, with default, help and domain. Unknown keys, wrong types and
impossible combinations raise before any file, device or model is opened.
"""
