"""What an architecture costs: tables that add up along the chain of stages."""
