"""Claims, the statistics behind them, and the verdicts."""
