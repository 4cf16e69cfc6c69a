"""Many at a time: the only part of the package that imports ray."""
