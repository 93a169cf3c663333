"""Networks of other projects, one file a project."""
