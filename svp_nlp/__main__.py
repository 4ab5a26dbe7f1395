"""`python -m svp_nlp`, and `accelerate launch -m svp_nlp run RECIPE`."""

from svp_nlp.cli import main

if __name__ == "__main__":
    main()
