"""Ways to start ranks on machines, one or two files each."""
