"""Cost of a training step on devices that need not be here.

The step of a configuration is compiled for a topology from shapes alone; its HLO text
(`hlo/`) gives memory, FLOPs and collective traffic. Behind `plan`.
"""
