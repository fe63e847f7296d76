"""What everything else stands on: the C core, the network, models. Nothing here reads files or pictures."""
