"""What to run next and what becomes of it: decided without Ray and without Keras."""
