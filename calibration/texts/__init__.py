"""Texts: built in (beside these modules), from files and from the Hub; and the windows of tokens drawn from them."""
