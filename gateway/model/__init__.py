"""The nouns: frozen, slotted dataclasses that cannot be built invalid. Imports nothing of ours, does nothing."""
