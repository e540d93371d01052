"""The same calls over both paths, measured side by side: the calls, the measures, the statistics, the report."""
