"""What reaches people: the sender that decides when, and the courier child that holds Apprise."""
