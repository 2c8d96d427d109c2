"""The winner: chosen, trained again, proved, shipped."""
