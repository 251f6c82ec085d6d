"""The mathematics of guided diffusion as pure functions of arrays; imports only jax."""
