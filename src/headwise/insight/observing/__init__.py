"""Recording what heads compute, in models of ours and of others."""
