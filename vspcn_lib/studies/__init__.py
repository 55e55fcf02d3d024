"""Many runs: the runner, the ablation, the sweep, records and the tables of them."""
