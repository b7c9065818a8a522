"""Speed, measured: the limits of a machine, the service, and its peers, in one run."""
