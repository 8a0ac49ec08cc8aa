"""What a run will need on devices that are not there: memory, time, network."""
