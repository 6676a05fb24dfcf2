"""Stand-ins for what the tests cannot have, each tested against the real thing."""
