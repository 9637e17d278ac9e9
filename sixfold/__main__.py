"""python -m sixfold"""

from cli.main import main

main()
