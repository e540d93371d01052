"""The DNS proxy's state machine: what to answer, whom to ask, when to give up."""
