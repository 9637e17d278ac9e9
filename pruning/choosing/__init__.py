"""Which experts are kept, and why: criteria, the choice by them, and plan.json."""
