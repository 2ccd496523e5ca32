; Source and destination share half their bytes.
; expect: structure: entry 0 `main`: instruction 0 (`allred`): source and destination share bytes
object "allred-overlap" target "mtia-300" hbm 1024 sram 0

entry e0 "main" {
  ranks 2
  input "x" f32 (8) hbm:0
  output "y" f32 (8) hbm:512
  transfer x0 hbm:496 hbm:512 f32 x 8 add peer 0
  code:
    allred x0
    halt
}

weights 0 {
}
