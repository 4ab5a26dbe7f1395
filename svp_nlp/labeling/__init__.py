"""What people do: rows that are asked for, answers, who agrees with whom, and the ways in and out."""
