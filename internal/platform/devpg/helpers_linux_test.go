package devpg

// letServerSurvive makes a killed service leave its server running, as on
// systems without a parent-death signal.
func letServerSurvive() { parentDeathSignal = 0 }
