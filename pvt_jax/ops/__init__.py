"""Pure array functions with static shapes."""
