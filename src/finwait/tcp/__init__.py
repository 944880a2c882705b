"""What TCP is: pure data and rules, standard library only."""
