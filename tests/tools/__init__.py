"""What measures, sweeps and damages the tool, beside the tests."""
