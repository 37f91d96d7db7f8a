"""What tests ask of agents."""


def snapshot(agent):
    """Copy all that continuing the training needs."""
    return {name: tensor.clone() for name, tensor in agent.training_state().items()}
