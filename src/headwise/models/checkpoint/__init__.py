"""Published folders: configurations, key tables, files."""
