"""What the pruned experts gave, given back by the kept ones: their projections refitted by least squares."""
