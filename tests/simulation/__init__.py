"""The protocol under a simulated store, clock, network and machines, with seeded faults."""
