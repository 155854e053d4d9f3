package main

import (
	"context"

	"trakr/internal/connect"
	"trakr/internal/drift"
	"trakr/internal/schedule"
	"trakr/internal/sweep"
