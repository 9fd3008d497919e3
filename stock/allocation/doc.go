// Package allocation decides what each channel may show of what is available.
package allocation
