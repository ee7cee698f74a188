"""Saffron's API: the types of a QuantizedModel, of a Job's result and of the keys that start work. Pydantic only."""
