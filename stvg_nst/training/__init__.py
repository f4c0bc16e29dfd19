"""How a fit runs: how it counts, stops and goes on, and how it says how it ended.

A process that only watches a fit imports ``divergence``, ``stopping`` and ``settings``, and no torch with them.
"""
