"""What the pruned experts gave, given back by the kept ones: their down projections refitted in closed form."""
