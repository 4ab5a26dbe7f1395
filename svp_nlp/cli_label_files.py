"""`svp label export` and `svp label import`: labels through files."""
