"""Recommenders that OneRec is measured beside: popularity, item-KNN and SASRec."""
