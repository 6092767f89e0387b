"""What studies share: statistics, the page of metrics, stored runs, charts, tables, proxies."""
