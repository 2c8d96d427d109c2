"""Where else a run is written for people who look there: one file for each tool, all of them over records."""
