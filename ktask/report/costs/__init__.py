"""What threads cost others: neighbours, a busy machine, a quota, CPU time; and the reviewers' questions."""
