"""Hardware in the loop: the test bench. `rig.toml` says what is on each position; today every position is virtual."""
