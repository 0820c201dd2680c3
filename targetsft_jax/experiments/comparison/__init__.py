"""Results of a comparison: statistics, tables and figures."""
