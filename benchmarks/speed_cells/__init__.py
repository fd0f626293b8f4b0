"""What benchmarks.speed measures, one process for each measurement."""
