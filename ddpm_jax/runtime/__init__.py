"""What runs the mathematics: devices, processes, results on disk, compiled programs."""
