"""Rules over what the doctor looked at. Pure: they open nothing, and time is an argument."""
