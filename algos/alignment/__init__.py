"""The parts of ``algos/parl.py``: how rewards are learned from preferences under the policy that they lead to."""
