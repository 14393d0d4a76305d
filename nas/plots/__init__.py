"""Figures and tables, one file each: plain data in, a `style.Chart` or a DataFrame out."""
