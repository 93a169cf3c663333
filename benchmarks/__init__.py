"""Speed, measured: against other projects, against the machine, and for machines that are not here."""
