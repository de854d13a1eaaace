"""What stops a run in time: guards, signals, the watchdog, memory."""
