"""A-PARL online: rewards learned from comparisons that come in while the policy learns from them."""
