"""mfer"""
