"""Task files: their settings, and the images they name, in folders, parquet files and on the hub."""
